"""The results of a run, from its records.

``histograms``     the HDR histograms of latencies, whose library is an extra
``counts``         counts by status, reason of rejection and kind of error
``groups``         the same by account and by model
``summary``        counts, rates and latencies
``client_health``  checks whether the client itself was the bottleneck
``unserved``       the error message of a run in which no request was served or rejected
``tables``         all of it as text
"""
