"""What is true of every job: who was accepted, which shards are committed, how each one ended."""

from .ledger import Control, Ledger, NotTaken
from .stripe import Attempt, Stripe
from .turns import Progress, Turn

__all__ = ["Attempt", "Control", "Ledger", "NotTaken", "Progress", "Stripe", "Turn"]
