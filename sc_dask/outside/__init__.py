"""What depends on a version of another library or is not part of its public API: one file a library.

Nothing else in sc_dask imports a private module or reads a private attribute of another library (a test holds this).

==================================  =======================================================  ==========================
entry                               why                                                      may go when
==================================  =======================================================  ==========================
``anndata.named_layers``            from 0.13 on X is the layer ``None`` as well             never: both must be read
``anndata.make_actual``             no public way to turn a view into an AnnData in place    anndata has one
``anndata.subset_inplace``          the same, for cells and genes; scanpy calls it too       anndata has one
``anndata.keep_class_in_views``     views make a plain Dask array of a lazy X                anndata keeps subclasses
``anndata.write_lazy``              writers are chosen by the exact class of X               subclasses are accepted
``anndata.write_whole``             the target is emptied before X is asked for              files are replaced whole
``dask``: tasks                     ``dask._task_spec``, what graphs are made of             the names are public
``dask.unpin``                      loose restrictions to a lost worker hold tasks back      distributed lets them go
``dask.has_sparse_blocks``          ``Array._meta`` tells what blocks are                    it has a public name
``pandas.exact_floats``               ``float_precision``, deprecated in 3.1                   the floor is 3.1
``xarray``: lazy columns            ``xarray.core.indexing``, which its guide for backends   the names are public
                                    tells to use; extension arrays
``scanpy.module``                   figures, web queries, and libraries that need memory     never: it is the extra
``fsspec.reads_zip_behind_url``     older ones cannot, which is told                         the floor is 2026.9
``fsspec.takes_negative_start``     adlfs takes it for an offset                             all know the last bytes
``zarr.sync``                       fsspec's stores are bound to zarr's event loop           zarr has a public ``sync``
``zarr.metadata_of``                codecs' attributes were enums before 3.2                 never: read as specified
==================================  =======================================================  ==========================
"""
