"""Whether Weights & Biases can be reached: a run that waits for it in vain would fail before its first step."""

import os
import ssl
import threading
from netrc import NetrcParseError, netrc
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

SECONDS = 4.0
"""To wait for an answer. Finding the host's address may take longer than any timeout of a connection, so that this is
the limit of a thread."""


def why_offline() -> str | None:
    """Why a run cannot log to the server; None if it can, or if ``WANDB_MODE`` says what the user wants."""
    return None if os.environ.get("WANDB_MODE") else why_unreachable()


def why_unreachable() -> str | None:
    """Why the server cannot be used; None if it can."""
    if not os.environ.get("WANDB_API_KEY") and not _in_netrc():
        return "not logged in"
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(_answers(url)), daemon=True)
    thread.start()
    thread.join(SECONDS + 1)
    if answers == [True]:
        return None
    return f"{url} does not answer"


def _answers(url: str) -> bool:
    """Whether a server is there, through the proxy if there is one; any answer will do."""
    try:
        with urlopen(url, timeout=SECONDS):
            return True
    except HTTPError:
        return True
    except URLError as error:
        return isinstance(error.reason, ssl.SSLCertVerificationError)  # W&B may trust other certificates
    except (OSError, ValueError):
        return False


def _in_netrc() -> bool:
    try:
        return any("wandb" in host for host in netrc(os.environ.get("NETRC")).hosts)
    except (OSError, NetrcParseError):
        return False
