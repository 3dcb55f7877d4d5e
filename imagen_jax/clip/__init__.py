"""CLIP (Radford et al. 2021, arXiv 2103.00020): its towers, its losses, its tokenizer, and files of its parameters.

    image -> image tower -> embedding;   text -> ``tokenizer`` -> text tower -> embedding

``contrastive`` has the losses, and ``pair`` two towers with the parameters of their loss, which is what is trained
(``tasks.clip``). ``towers`` has the registries of towers: ``vision_transformer`` and ``resnet`` for images,
``text_transformer`` and ``bag_of_words`` for captions, and ``feature_head`` for features of frozen networks.
``transformer`` is the part that both transformers share. ``embedding_space`` says how embeddings become what a decoder
is told and a prior diffuses. ``codes`` turns image embeddings into codes by their principal
components, for an autoregressive prior.

``description`` says in plain data what a CLIP is. ``folder`` reads a CLIP in our layout, open_clip's
(``open_clip_folder``) or Hugging Face's (``hugging_face_folder``), and writes one in ours. ``openai_file`` derives the
description of one of OpenAI's files, and ``weights`` maps tensors to parameters and back. ``encoders.pretrained_clip``
loads a trained CLIP.
"""
