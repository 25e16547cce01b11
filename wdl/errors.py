"""Mistakes that a user can mend, reported as one line each instead of a traceback."""

MAX_FAULTS = 20


class UserError(Exception):
    """Input that cannot be used, with everything that is wrong with it.

    The command line prints the message and exits with code 2.

    Args:
        *faults: One line per fault: where it is (file:line or configuration key), what is wrong,
            and what to do about it.
        total: Number of faults found, if larger than the number of lines kept.
    """

    def __init__(self, *faults: str, total: int | None = None) -> None:
        self.faults = faults
        self.total = total or len(faults)
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """The first 20 faults, then a count of the rest."""
        shown = [" ".join(fault.split()) for fault in self.faults[:MAX_FAULTS]]
        hidden = self.total - len(shown)
        return [*shown, f"... and {hidden} more like these"] if hidden else shown

    def __reduce__(
        self,
    ) -> tuple:  # workers send exceptions by pickle, which drops keyword arguments
        return _rebuild, (self.faults, self.total)


def _rebuild(faults: tuple[str, ...], total: int) -> UserError:
    return UserError(*faults, total=total)
