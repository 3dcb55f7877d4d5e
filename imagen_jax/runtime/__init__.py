"""The process that runs a command: its flags, signals, memory and exit status, and the other processes of a pod.

    run_main -> flags -> join the other processes -> the command -> exit status

- ``main``: the wrapper of every command; ``distributed_flags``: flags of commands that several hosts run together;
  ``preconditions``: rejects flags that would have no effect.
- ``processes``: multi-host functions (barrier, broadcast, agreement); ``process_group``: heartbeats;
  ``coordination``: JAX's service for both.
- ``preemption``: SIGTERM; ``interrupts``: Ctrl-C; ``machine_errors``: missing memory, threads, devices.
- ``memory``: large pages, freeing memory; ``backend``: the platform that a program is compiled for;
  ``compilation_cache``: the cache of compiled programs; ``standard_streams``: closed or broken standard streams;
  ``seeds``: the range of valid seeds.
"""
