"""What attackers try: one file for each family. `CASES` of each is what run.py runs."""
