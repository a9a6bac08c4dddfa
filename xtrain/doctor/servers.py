"""Whether this machine reaches the servers that a study may want: the hub of Hugging Face, and W&B."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, TimeoutError, as_completed

HUB, WANDB = "the hub", "W&B's server"
ANSWER_SECONDS = 5.0
_USUAL = {HUB: ("HF_ENDPOINT", "https://huggingface.co"), WANDB: ("WANDB_BASE_URL", "https://api.wandb.ai")}


def unreached(environ: Mapping[str, str], seconds: float = ANSWER_SECONDS) -> dict[str, str]:
    """Server -> why it is not reached, or an empty string; any answer at all counts, through a proxy too.

    Takes no more than ``seconds``, whatever hangs.
    """
    addresses = {server: environ.get(name) or usual for server, (name, usual) in _USUAL.items()}
    pool = ThreadPoolExecutor(len(addresses))
    calls = {pool.submit(_trouble, address, seconds): server for server, address in addresses.items()}
    found = {server: f"{address}: no answer within {seconds:.0f} s" for server, address in addresses.items()}
    try:
        for call in as_completed(calls, seconds):
            found[calls[call]] = call.result()
    except TimeoutError:  # a name server that is silent knows no time limit
        pass
    pool.shutdown(wait=False, cancel_futures=True)
    return found


def _trouble(address: str, seconds: float) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds):
            return ""
    except urllib.error.HTTPError:  # an answer
        return ""
    except (OSError, ValueError) as error:
        return f"{address}: {getattr(error, 'reason', None) or error}"
