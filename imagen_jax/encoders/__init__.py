"""Frozen networks: text encoders for conditioning, image encoders for metrics, and stores of their embeddings.

The way of a caption, one file a step::

    bert.py, t5.py         token ids -> hidden states (Flax modules; their parameters are plain dicts)
    bert_weights.py, t5_weights.py
                           which tensor of a downloaded file is which parameter
    t5_files.py            T5 downloads, in the layouts of Hugging Face and of T5X
    minilm.py              finds and checks the pretrained MiniLM's files, and joins its three
    pretrained_t5.py       the same for a T5 v1.1 of any size
    batched_encoder.py     any tokenizer, network and weights -> an encoder with few compilations
    encoder.py             the one interface, TextEncoder, and the choice of an encoder by name
    embedding_bucket.py    one file of embeddings, unpadded, mapped into memory
    embedding_layer.py     a set of captions in such files
    embedding_store.py     a data set's embeddings, encoded once; or each batch's, computed as it comes

A new text encoder brings its own module and weights, and one line in ``encoder.TEXT_ENCODERS``.

Image encoders: ``feature_network`` (the interface), ``feature_networks`` (by name, and extraction in batches),
``inception`` with ``inception_weights`` and ``resizing`` (FID's network), ``pretrained_clip`` with
``clip_preprocessing``, ``efficientnet_lite0`` (its weights come as a package).
"""
