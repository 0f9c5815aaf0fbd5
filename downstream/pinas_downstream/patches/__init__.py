"""What is changed in the packages of others: mmcv's operators, and how mmengine reads checkpoints and finds configs."""
