"""The rules, the alerts and the dashboard of monitoring/, with the real Prometheus and Alertmanager."""
