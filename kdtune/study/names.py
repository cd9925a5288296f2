"""Names that stand in files: of a study's folder, and of the columns that hyperparameters have; and a stage's limit."""

STUDY_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # it becomes the name of a folder

MOST_TRIALS = 100_000  # of a stage: all are planned, and listed, before the first runs


def column(loss: str, field: str) -> str:
    """``lambda_<loss>`` for a weight, ``temperature`` for that of L_PI, ``<field>_<loss>`` for all else."""
    if field == "weight":
        return f"lambda_{loss}"
    return field if (loss, field) == ("pi", "temperature") else f"{field}_{loss}"


def column_at(path: str) -> str | None:
    """The column of a dotted path of a configuration, ``recipe.lr`` or ``losses.pi.weight``; None if it has none."""
    match path.split("."):
        case ["recipe", "lr" | "weight_decay" as field]:
            return field
        case ["losses", loss, field]:
            return column(loss, field)
    return None
