"""Work on many files on the machines of an Apache Spark cluster."""
