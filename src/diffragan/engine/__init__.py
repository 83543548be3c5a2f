"""Many tasks over many processes and machines, by `dask.distributed`."""
