"""The user directory: who can be found by whom, under which words."""

from storage.collection import CollectionSpec, Index, Record


class DirectoryWord(Record, frozen=True):
    """A user can be found under `word` by those who may look in `scope`.

    The scope is a room id, for its members, or `EVERYONE` for users in public rooms.
    """

    scope: str
    user_id: str
    word: str
    display_name: str | None = None
    avatar_url: str | None = None


EVERYONE = "*"


class DirectoryRoom(Record, frozen=True):
    """Whether the members of a room were last filed under `EVERYONE` or under the room."""

    room_id: str
    public: bool


WORDS = CollectionSpec(
    "user_directory",
    DirectoryWord,
    ("scope", "user_id", "word"),
    (Index("by_word", ("scope", "word", "user_id")),),
)
ROOMS = CollectionSpec("user_directory_rooms", DirectoryRoom, ("room_id",))

SPECS = (WORDS, ROOMS)
