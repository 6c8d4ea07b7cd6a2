"""stub"""


def run_demo(output_dir): ...
