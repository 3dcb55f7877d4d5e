import pytest

from imagen_jax.data.sources.sources import list_images
from imagen_jax.errors import UserError


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("openmojis", {}, "'openmojis'.*'openmoji'"),
        ("openmoji", {"skin_tone": True}, "'skin_tone' .*'skin_tones'"),
        ("folder", {}, "option 'folder'"),
    ],
)
def test_the_error_for_a_wrong_name_has_the_right_one(source, options, message):
    with pytest.raises(UserError, match=message):
        list_images(source, options)
