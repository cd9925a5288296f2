"""What Ray and Tune read from the environment, in the driver and in the workers; imported before either of them."""

import os

# Read by Tune when it is imported or run, in the driver and in the workers.
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal has it all: 4 files instead of 5 per trial
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own snapshots are never read
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # all that may run at once begin at once; there are never more than these
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours ends the launch and says how to continue
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",  # a stopped trial that ends slowly would cost the next one its run
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of data and storage keep their meaning
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_raylet_start_wait_time_s": "120",  # a busy machine needs more than Ray's 30 s
    "MALLOC_ARENA_MAX": "2",  # Ray's many threads would each keep an arena of freed memory
}
os.environ.update({name: os.environ.get(name, value) for name, value in TUNE_ENVIRONMENT.items()})
