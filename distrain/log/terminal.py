"""How `distrain launch` tells its workers of the terminal that their output ends up on."""

TERMINAL_COLUMNS = "DISTRAIN_TERMINAL_COLUMNS"
