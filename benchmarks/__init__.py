"""
Speed and memory of hf_bert4rec beside what a user would otherwise pick: `python -m benchmarks --help`, see README.md.
"""
