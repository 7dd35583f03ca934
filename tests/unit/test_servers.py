"""Whose users are in a room."""

import pytest

from homeserver.rooms.servers import has_user_of


@pytest.mark.parametrize(
    ("server", "user_id", "has"),
    [
        ("example.org", "@alice:example.org", True),
        ("example.org:8448", "@alice:example.org:8448", True),
        ("[::1]:8448", "@alice:[::1]:8448", True),
        ("example.org", "@alice:example.org:8448", False),
        ("8448", "@alice:example.org:8448", False),
        ("example.org", "@alice:not.example.org", False),
        ("example.org", "@alice:notexample.org", False),
        ("not.example.org", "@alice:example.org", False),
    ],
)
def test_a_user_belongs_to_the_server_after_the_first_colon(server: str, user_id: str, has: bool) -> None:
    assert has_user_of(server, [user_id]) is has
    assert has_user_of(server, ["@bob:elsewhere.org", user_id]) is has
    assert not has_user_of(server, [])
