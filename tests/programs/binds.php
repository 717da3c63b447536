<?php echo getenv('OVERSEER_GENERATION'), ' 0 ', getmypid(), "\n";
