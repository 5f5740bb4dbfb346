"""The plain, slow, obvious ways: tests compare against them, the benchmark times against them."""
