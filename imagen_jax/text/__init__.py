"""Captions in, frozen token embeddings out; a data set's captions are embedded once and kept.

The way of a caption, one file a step::

    tokenizer.py        caption -> token ids
    bert.py             token ids -> hidden states (Flax module; its parameters are a plain dict)
    bert_weights.py     tensors named as in Hugging Face's files -> those parameters
    minilm.py           finds and checks the pretrained MiniLM's files, and joins the three above
    batched_encoder.py  any tokenizer, network and weights -> an encoder with few compilations
    encoder.py          the one interface, TextEncoder, and the choice of an encoder by name
    embedding_store.py  a data set's embeddings in one file, unpadded, encoded once

A new encoder, T5 say, brings its own tokenizer, module and weights, and one line in ``encoder.TEXT_ENCODERS``.

May import from the package: ``array_types`` and ``errors``.
"""
