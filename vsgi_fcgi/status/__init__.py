"""What a running server does: shared memory that each process fills, and the pages made of it."""
