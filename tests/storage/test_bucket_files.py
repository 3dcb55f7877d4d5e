"""What a failed upload leaves."""

import pytest


@pytest.mark.parametrize("size", [0, 1, 6 << 20], ids=["nothing", "a byte", "two chunks"])
def test_after_a_refused_upload_no_view_of_the_buffer_is_left(bucket, fake_buckets, size):
    fake_buckets.denied.add("denied")
    file = (bucket / "denied").open("wb")
    file.write(bytes(size))
    with pytest.raises(OSError, match="Forbidden") as kept:
        file.close()
    assert kept.traceback, "the error is there, with all that it holds"
    # A view would let this raise BufferError, and Python's collection print it.
    file.buffer.close()
