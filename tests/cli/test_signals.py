"""Ctrl-C is answered by every verb, whatever the main thread waits for."""

import signal
import subprocess
import sys

import pytest
from fixtures.waiting import ended

DEAF = (
    "import ctypes, threading\n"
    "from rankray.cli import signals\n"
    "signals.DEAF_SECONDS = 0.2\n"
    "library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)\n"
    "library.pthread_mutex_lock(mutex)\n"
    "with signals.interruptible_in_c():\n"
    "    threading.Timer(0.5, print, ['waiting'], {'flush': True}).start()  # from the side, once C is entered\n"
    "    library.pthread_mutex_lock(mutex)  # it waits for itself, and no signal ends that\n"
)
ALERT = (
    "import time\n"
    "from rankray.cli import signals\n"
    "signals.DEAF_SECONDS = 0.2\n"
    "try:\n"
    "    with signals.interruptible_in_c():\n"
    "        print('waiting', flush=True)\n"
    "        try:\n"
    "            time.sleep(3600)\n"
    "        except KeyboardInterrupt:\n"
    "            time.sleep(1)\n"
    "            raise\n"
    "except KeyboardInterrupt:\n"
    "    raise SystemExit(77)\n"
)
LOSING = (
    "import time\n"
    "from rankray.cli import signals\n"
    "signals.LOST_SECONDS = 0.2\n"
    "class Callback:\n"
    "    def __del__(self):\n"
    "        print('waiting', flush=True)\n"
    "        time.sleep(3600)  # what is raised here Python ignores\n"
    "try:\n"
    "    with signals.interruptible_in_c():\n"
    "        Callback()\n"
    "        time.sleep(3600)\n"
    "except KeyboardInterrupt:\n"
    "    raise SystemExit(77)\n"
)


@pytest.mark.parametrize(
    ("program", "code", "said"), [(DEAF, 130, "did not answer"), (ALERT, 77, ""), (LOSING, 77, "Exception ignored in")]
)
def test_who_does_not_notice_is_ended_and_who_does_takes_its_time(program, code, said):
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    assert ended(process) == code
    assert said in process.stderr.read()
