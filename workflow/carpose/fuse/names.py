"""Names of a run's submissions, without imports: Snakemake reads them while it plans."""

# fuse.mode → which cars a file holds → its name. submission.csv is the file for the metric of the mode.
SUBMISSIONS = {
    "given": {"all": "submission.csv", "thresholded": "submission_thresholded.csv"},
    "leaderboard": {"all": "submission_all_cars.csv", "thresholded": "submission.csv"},
}
