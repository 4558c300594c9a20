"""The offline half of oodgate: trains, evaluates, calibrates and writes bundles. Needs torch."""
