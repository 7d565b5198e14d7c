"""Which frequencies of a perturbation do the harm?"""
