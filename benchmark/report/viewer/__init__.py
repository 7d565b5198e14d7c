"""A case before and after an attack as one HTML file to scroll through: volumes, predictions, difference, 3D.

NiiVue draws; it lies here, compressed, so that a viewer can be made and opened without a network.
"""
