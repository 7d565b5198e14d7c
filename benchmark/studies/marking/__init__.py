"""The study of marks: how far a watermark misleads models, what takes it off, and what it costs."""
