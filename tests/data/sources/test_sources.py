import pytest

from imagen_jax.data.sources.sources import list_images
from imagen_jax.errors import UserError


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("openmojis", {}, "unknown data source 'openmojis'; did you mean 'openmoji'"),
        ("openmoji", {"skin_tone": True}, "unknown option 'skin_tone' .* did you mean 'skin_tones'"),
        ("folder", {}, "needs the option 'folder'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(source, options, message):
    with pytest.raises(UserError, match=message):
        list_images(source, options)
