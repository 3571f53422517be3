"""Work that takes longer than a request: POST /task is answered at once, GET /task/{id} says where it stands.

Tasks wait in a queue and their results in a KV, both on disk: a worker that is killed loses nothing.
"""

from leptonai.photon.worker import Worker


class Primes(Worker):
    queue_empty_sleep_time = 0.05

    def on_task(self, task_id, payload):
        n = payload["below"]
        sieve = bytearray([1]) * n
        for i in range(2, int(n**0.5) + 1):
            if sieve[i]:
                sieve[i * i :: i] = bytes(len(range(i * i, n, i)))
        return sum(sieve[2:])


if __name__ == "__main__":
    Primes().launch()
