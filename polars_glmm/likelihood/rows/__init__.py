"""Where rows are while they are worked on."""
