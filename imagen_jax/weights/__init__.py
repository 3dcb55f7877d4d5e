"""Files of weights, and the way from named tensors to a network's parameters.

    folder or file -> tensors by name, one at a time -> turned, cast and placed -> parameters, a nested dict

``safetensors_folder`` (a file, or an index and its shards), ``t5x_folder`` (a checkpoint of T5X), ``torch_file`` (a
``.pth``), ``torch_pickle`` (and executes nothing of it), ``torch_script`` (nor of a tree of modules), ``known_files``
(finds those that others publish), ``named_tensors`` (checks names and shapes, and puts each tensor where it belongs),
``places`` (one device, or cut over a mesh). Which tensor is which parameter is said beside the network:
``text/t5_weights``, ``models/deepfloyd_weights``.
"""
