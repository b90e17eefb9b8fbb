"""From wishes to an order of work: holder graph, sequencer, journal, executor."""
