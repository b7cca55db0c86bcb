"""What several tests need."""
import pytest

from mini.common import UserError


def refused(call, *names) -> str:
    """The message of the UserError that call() raises: one line, with all the names in it."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(str(name) in message for name in names), message
    return message
