"""A rank whose steps take a while, so that a fault meets it in one: python paced.py -u train.py RUN_DIR, below srun."""

import os
import runpy
import sys
import time

from xtrain.training.loop import Trainer

whole_step = Trainer._global_step
# Seconds of a step by attempt; the last one holds for all that follow.
PACES = [float(pace) for pace in os.environ["XTRAIN_TEST_PACE"].split(",")]
PACE = PACES[min(int(os.environ["XTRAIN_ATTEMPT"]), len(PACES)) - 1]


def paced_step(self, step, learning_rate):
    time.sleep(PACE)
    return whole_step(self, step, learning_rate)


Trainer._global_step = paced_step
sys.argv = [argument for argument in sys.argv[1:] if argument != "-u"]
runpy.run_path(sys.argv[0], run_name="__main__")
