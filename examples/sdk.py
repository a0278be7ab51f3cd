"""Submit rows, read their results while the job runs, and look at its end.

Run `holdshort up` in this folder first. The pool `words` calls the function in own_engine.py.
"""

from holdshort.jobs import BatchInferenceJob, Client

TEXTS = {
    "hold-short": "Hold short of the runway until it is clear.",
    "line-up": "Line up and wait behind the landing traffic.",
    "go-around": "Go around, I say again, go around.",
}


def main() -> None:
    rows = [{"custom_id": name, "input": text} for name, text in TEXTS.items()]
    with Client() as client:
        job = client.submit(BatchInferenceJob(pool="words", input=rows, priority="urgent", deadline="10m"))
        print(f"submitted: {job}")
        for row in job.results():  # in input order, each as soon as it is there
            print(f"{row.custom_id:12} {row.outcome}: {row.body or row.error}")
        status = job.wait()
        print(f"{status.state}: {status.counts.as_dict()}")


if __name__ == "__main__":
    main()
