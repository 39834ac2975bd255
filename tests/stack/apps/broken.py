"""Cannot be imported."""

raise RuntimeError("no database at db.example")
