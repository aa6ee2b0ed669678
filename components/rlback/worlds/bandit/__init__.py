"""A tabular bandit in which KL, optimum, gradient and gold reward are exact: estimators are tested on it.

Every array has a leading axis of seeds (s), then contexts (x, equally likely), then actions (a). numpy only.
"""
