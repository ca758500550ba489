"""How fast the filter is on the CPU, and what it spends its time on."""
