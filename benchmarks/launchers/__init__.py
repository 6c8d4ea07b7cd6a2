"""
One file for each system: its public interface behind the calls of [`benchmarks.measurement.Launcher`].

Each is run as a script in the environment of its system, and imports nothing of the others.
"""
