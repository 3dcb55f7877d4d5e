"""The smallest network of the smoke sizes, for tests that ask nothing of it: compiling is most of their time."""

ONE_LEVEL = {
    "channels": (8,),
    "blocks": (1,),
    "strides": (1,),
    "self_attention": (False,),
    "cross_attention": (False,),
}
"""Settings of ``network``: one level of one block, which reads its caption pooled."""

ATTENDING = {**ONE_LEVEL, "cross_attention": (True,), "patch": 2}
"""The same with attention over the caption's tokens, at a quarter of the pixels."""
