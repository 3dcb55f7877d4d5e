"""CLIP (Radford et al. 2021, arXiv 2103.00020): its two towers, its tokenizer and its parameters.

    image -> vision tower -> embedding;   text -> ``tokenizer`` -> text tower -> embedding

``clip``: the network in Flax; ``tokenizer``: byte-pair encoding; ``weights``: maps the tensors of published files to
parameters. ``encoders.pretrained_clip`` loads a trained CLIP.
"""
