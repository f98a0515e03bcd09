"""For warnings that are logged once per process and operation."""

LIMIT = 1000  # names, because a callable `operation` may return any number of them


class SeenNames(set[str]):
    """The names for which a warning was logged. Beyond `LIMIT` names, each counts as new."""

    def is_new(self, name: str) -> bool:
        if name in self:
            return False
        if len(self) < LIMIT:
            self.add(name)
        return True
