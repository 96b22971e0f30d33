"""How much work a program has to do to be worth recording, or compiling.

The choice depends on settings alone, never on a clock, so that two runs of one seed are the same
run.
"""

__all__ = ["TIERS", "tier_by_work"]

TIERS = ("auto", "off", "record", "inductor")


def tier_by_work(wanted: str, amount: int, worth_recording: int, worth_compiling: int) -> str:
    """The tier that is wanted, or under "auto" the one that suits the amount of work.

    That is the dearest to start that the amount of work is worth.

    Args:
        wanted: one of `TIERS`.
        amount: how often the program will run.
        worth_recording: the amount from which on recording pays.
        worth_compiling: the amount from which on compiling pays.
    """
    if wanted != "auto":
        return wanted
    if amount >= worth_compiling:
        return "inductor"
    return "record" if amount >= worth_recording else "off"
