"""The study of the method's parts: rows and remarks as data, and what measures and reports them."""
