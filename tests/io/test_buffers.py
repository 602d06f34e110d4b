"""Lent memory: never lent twice at once, lent again when free, bounded."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.io.blobs import buffers
from sc_dask.io.blobs.buffers import Pool

N = 1 << 20


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float64"])
def test_empty__is_a_plain_array(dtype: str) -> None:
    for n in (0, 1, N + 1):
        array = Pool().empty(n, dtype)
        assert array.shape == (n,) and array.dtype == dtype
        assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
        array[:] = 1
        assert array.sum() == n
    assert address(array) % 4096 == 0


def test_empty__memory_comes_back_when_the_last_view_is_gone() -> None:
    pool = Pool()
    array = pool.empty(N, np.int32)
    where, view = address(array), array[10:20].view(np.uint8)[::2]
    matrix = sp.csr_matrix((array[:4], np.arange(4, dtype=np.int32), [0, 4]), copy=False)
    exported = memoryview(array[100:])
    view[:] = 7
    del array
    for _ in range(2):
        other = pool.empty(N, np.int32)
        assert address(other) != where
        other[:] = 0
        assert (view == 7).all() and exported[0] is not None
    del view, matrix
    assert address(pool.empty(N, np.int32)) != where
    exported.release()
    del exported
    again = [pool.empty(N, np.int32) for _ in range(3)]
    assert where in {address(a) for a in again}


def test_empty__lends_again_instead_of_making() -> None:
    pool = Pool()
    for k in range(50):
        array = pool.empty(N + 1000 * k, np.int32)
        array[0] = k
        del array
    assert pool.n_made <= 3
    assert 0 < pool.free_bytes <= 3 * 5 * N


def test_free__is_bounded_in_bytes_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "FREE_BYTES", 8 * N)
    monkeypatch.setattr(buffers, "FREE_BUFFERS", 3)
    with dask.config.set(num_workers=2):
        pool = Pool()
        many = [pool.empty(2 * N, np.uint8) for _ in range(20)]
        assert pool.free_bytes == 0
        del many
        assert pool.free_bytes == 6 * 2 * N  # the number
        many = [pool.empty(5 * N, np.uint8) for _ in range(20)]
        del many
        assert 10 * N < pool.free_bytes <= 16 * N  # the bytes
    pool.clear()
    assert pool.free_bytes == 0


def test_clear__what_is_lent_is_forgotten_when_it_comes_back() -> None:
    pool = Pool()
    array = pool.empty(N, np.uint8)
    array[:] = 7
    pool.clear()
    assert (array == 7).all()
    del array
    assert pool.free_bytes == 0
    after = pool.empty(N, np.uint8)
    del after
    assert pool.free_bytes > 0


def test_empty__small_wishes_do_not_take_large_buffers() -> None:
    pool = Pool()
    large = pool.empty(16 * N, np.uint8)
    where = address(large)
    del large
    assert address(pool.empty(N, np.uint8)) != where


def test_pool__many_threads_never_share_memory() -> None:
    pool = Pool()

    def work(seed: int) -> bool:
        rng, kept, fine = np.random.default_rng(seed), [], True
        for _ in range(100):
            array = pool.empty(int(rng.integers(N // 4, N)), np.int32)
            value = int(rng.integers(1 << 30))
            array[::997] = value
            kept.append((array[::997], value))
            if len(kept) > 3:
                view, value = kept.pop(int(rng.integers(len(kept))))
                fine &= bool((view == value).all())
        return fine and all((view == value).all() for view, value in kept)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_pool__an_array_that_dies_under_the_lock_does_not_block() -> None:
    pool = Pool()
    array = pool.empty(N, np.int32)
    done = threading.Event()

    def die() -> None:
        nonlocal array
        with pool._lock:
            array = None
        done.set()

    threading.Thread(target=die, daemon=True).start()
    assert done.wait(10)
    made = pool.n_made
    assert pool.free_bytes == 0  # the next one to let go of the lock sorts in what waits
    assert pool.empty(N, np.int32) is not None
    assert pool.n_made == made


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pool__a_forked_child_does_not_write_into_its_parent() -> None:
    mine = buffers.BUFFERS.empty(N, np.uint8)
    mine[:] = 1
    free = buffers.BUFFERS.empty(N, np.uint8)
    del free
    pid = os.fork()
    if pid == 0:
        mine[:] = 2
        fresh = buffers.BUFFERS.n_made == 0 and buffers.BUFFERS.free_bytes == 0
        os._exit(0 if fresh and buffers.BUFFERS.empty(N, np.uint8) is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (mine == 1).all()
