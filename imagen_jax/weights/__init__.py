"""Reads and writes files of weights, and maps named tensors to a network's parameters.

    folder or file -> tensors by name, one at a time -> transposed, cast and placed -> parameters, a nested dict

``safetensors_folder`` reads one file, or an index and its shards. ``t5x_folder`` reads a T5X checkpoint. ``torch_file``
reads a ``.pth``, with ``torch_pickle`` and ``torch_script``, which execute no code from the file. ``known_files`` finds
files that others publish. ``named_tensors`` checks names and shapes, and maps tensors to parameters. ``places`` puts
parameters on one device, or shards them over a mesh. ``written_folder`` writes exports. The mapping from tensor names
to parameters is beside each network, for example in ``encoders/t5_weights``.
"""
