"""Frozen networks: text encoders for conditioning, image encoders for metrics, and stores of text embeddings.

The way of a caption through the files, one per step::

    bert.py, t5.py         token ids -> hidden states (Flax modules; their parameters are plain dicts)
    bert_weights.py, t5_weights.py
                           map the tensors of a downloaded file to parameters
    t5_files.py            reads T5 downloads, in the layouts of Hugging Face and of T5X
    minilm.py              finds and checks the files of the pretrained MiniLM, and builds its encoder
    pretrained_t5.py       does the same for a T5 v1.1 of any size
    clip_text.py           makes an encoder of the text tower of a CLIP
    batched_encoder.py     any tokenizer, network and weights -> an encoder with few compilations
    encoder.py             the interface TextEncoder, and the choice of an encoder by name
    embedding_bucket.py    one file of unpadded embeddings, mapped into memory
    embedding_layer.py     one complete set of captions in such files
    embedding_store.py     a data set's embeddings: encoded once and stored, or computed for each batch
    data_set_embeddings.py the embeddings of all captions that a run trains on

A new text encoder needs its own module and weights, and one line in ``encoder.TEXT_ENCODERS``.

The image encoders: ``feature_network`` is the interface. ``feature_networks`` selects a network by name and extracts
features in batches. ``inception``, ``inception_weights`` and ``resizing`` implement FID's network. ``pretrained_clip``,
``published_clips`` and ``clip_preprocessing`` implement CLIP, and ``frozen_features`` one whose towers are heads on
other networks. ``image_embeddings`` stores features of all images of a data set, and ``image_vectors`` gives those of a
CLIP to a stage's batches. The weights of ``efficientnet_lite0`` are in a Python package.
"""
