"""Captions in, frozen token embeddings out; a data set's captions are embedded once and kept.

The way of a caption, one file a step::

    tokenizer.py           caption -> token ids (tokenizer.json or a sentencepiece model)
    bert.py, t5.py         token ids -> hidden states (Flax modules; their parameters are plain dicts)
    bert_weights.py, t5_weights.py
                           which tensor of a downloaded file is which parameter
    t5_files.py            what a T5 is downloaded as, in the layouts of Hugging Face and of T5X
    minilm.py              finds and checks the pretrained MiniLM's files, and joins its three
    pretrained_t5.py       the same for a T5 v1.1 of any size
    batched_encoder.py     any tokenizer, network and weights -> an encoder with few compilations
    encoder.py             the one interface, TextEncoder, and the choice of an encoder by name
    embedding_bucket.py    one file of embeddings, unpadded, mapped into memory
    embedding_layer.py     a set of captions in such files
    embedding_store.py     a data set's embeddings, encoded once; or each batch's, computed as it comes

A new encoder brings its own module and weights, and one line in ``encoder.TEXT_ENCODERS``.

May import from the package: ``array_types``, ``errors``, ``sharding`` (axes), ``storage`` and ``weights``.
"""
