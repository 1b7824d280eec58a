"""From a program to Relax: TVM's importer, converters for the ops that it lacks, and where each variable comes from."""
