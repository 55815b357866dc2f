"""Records -> tables -> one HTML file. Imports ``bench.engine.record`` and ``bench.errors``, never torch: it runs anywhere."""
